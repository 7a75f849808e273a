"""What ``send`` reads and what ``recv`` writes: files, standard input and output, directories as tar."""
