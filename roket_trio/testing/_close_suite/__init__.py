"""The close suite: ``cases``, the ``programs`` under test, the ``runner``, and how a case is judged (``judging``)."""
