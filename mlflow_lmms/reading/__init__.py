"""How lmms-eval's results are read: one set of rules for live results (the runner) and for files (the importer).

Pure, and standard library alone: the runner uses it under an evaluation environment's Python, which has nothing else
of this project.
"""
