"""The rules that any AnyIO or Trio byte stream should keep. This package alone imports AnyIO and Trio.

================  =====================================================================================================
``byte_streams``  ``check_byte_stream``: checks all rules with a kind of stream
``stream_check``  ``StreamCheck``: one rule; a stream by the methods of AnyIO or of Trio
``rules``         the rules
================  =====================================================================================================
"""
