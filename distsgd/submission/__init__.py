"""Jobs for a cluster: what is checked first, the code that is uploaded, the job and its log, manifests.

A job is a command line, `distsgd train ...`, that starts a run or resumes it, whichever is to be done.
"""
