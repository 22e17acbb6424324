"""Whole modules that release 1.2 pickled load in releases before 1.5, in which this folder goes.

`paths` holds the modules that pickles name and that are elsewhere now; :mod:`.modules` makes models of today of them.
"""
