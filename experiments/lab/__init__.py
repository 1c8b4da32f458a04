"""Parts of ``experiments/lab``: a tabular softmax policy on a small SID trie whose truth is
known.
"""
