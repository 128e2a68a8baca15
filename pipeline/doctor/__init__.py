"""DOCTOR: does everything work that a run needs, here and where it reaches? Each check with its remedy.

One file for each thing that is looked at; `examine` runs them side by side. Nothing is left behind.
"""
