"""Modules that pickles of 1.2 name, where they were."""
