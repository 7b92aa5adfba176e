"""Policies that read state beside features, and their files."""
