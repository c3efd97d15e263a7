"""Whether runs that differ in one setting differ in what they reach: comparisons in pairs, over seeds."""
