"""Which characters of other people's names and messages are neither taken nor shown."""

from __future__ import annotations

import re

# The controls (C0, DEL, C1), the two separators of lines and paragraphs, and the overrides, embeddings and isolates of
# Unicode's bidirectional algorithm, which show a text in another order than it is written in (UAX 9; CVE-2021-42574).
# Blanks of other scripts, joiners and marks are a part of everyday names: U+202F in those of screenshots, U+200C in
# Persian, U+200D in emoji.
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# What Python makes of a byte that is not UTF-8, and halves of surrogate pairs. UTF-8 cannot hold them.
SURROGATES = re.compile("[\ud800-\udfff]")
