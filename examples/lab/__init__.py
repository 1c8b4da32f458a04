"""Parts of ``examples/prefix_lab.py``: a tabular softmax policy on a small SID trie whose truth is
known.
"""
