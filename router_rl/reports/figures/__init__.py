"""Figures of the report, one file for each form."""
