"""The cascade problem: call an expert, then call another or stop."""
