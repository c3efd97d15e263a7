"""avg@K and pass@K of models, on benchmarks and on problems of one's own."""
