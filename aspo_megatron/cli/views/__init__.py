"""Commands that show what runs have written: pictures, pages, text."""
