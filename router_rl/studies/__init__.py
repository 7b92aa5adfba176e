"""Studies: trials, comparisons, results and runs."""
