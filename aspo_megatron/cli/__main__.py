"""`python -m aspo_megatron.cli`: the `aspo` command, whichever Python it is."""

from aspo_megatron.cli.entry import main

if __name__ == "__main__":
    main()
