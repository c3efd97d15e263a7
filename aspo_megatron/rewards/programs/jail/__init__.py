"""What runs inside the sandbox. Standard library only: it is started by an interpreter without site packages.

`init.py` isolates itself from the machine, then serves requests: each is one program, run in a child process of its
own. Nothing in here is trusted by the side that compares outputs (`programs.sandbox`), and nothing that
must stay secret from a program is ever sent in here.
"""
