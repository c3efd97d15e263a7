"""Problems, samples, and their packing into micro-batches."""
