"""Generation by SGLang servers."""
