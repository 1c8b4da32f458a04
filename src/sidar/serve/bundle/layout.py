"""Names of the files and folders of a bundle, and the version of its format."""

FACTS = "bundle.json"
FORMAT = 1
#: Folder of what the fused answer reads; it changes with the memory and so is no part of the
#: bundle's hash.
ANSWER = "answer"
