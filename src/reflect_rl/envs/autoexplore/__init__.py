"""AutoExplore: find the file of a repository that answers a question. Folders are read, never run or changed.

- tree: a folder, indexed once and read-only; names: file names as one line of text; pages: files as pages of text
"""
