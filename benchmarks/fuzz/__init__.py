"""Foreign files of every kind, damaged and crafted at random, given to what reads them."""
