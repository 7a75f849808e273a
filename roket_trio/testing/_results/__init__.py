"""What was found about a close, in types that every part of the harness shares. Pure: no socket, no clock.

===============  ======================================================================================================
``close``        ``judge_close``: the one place that decides how a program ended a connection, and whether it may
``case_result``  ``CaseResult``: one result as a line of JSON, schema ``roket.close/1``
``wrapping``     text in lines that fit a terminal
===============  ======================================================================================================
"""
