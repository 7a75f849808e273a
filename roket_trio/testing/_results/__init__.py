"""What was found about a close, in types that every part of the harness shares. Pure: no socket, no clock.

=================  ====================================================================================================
``close_verdict``  ``judge_close``: how a program ended a connection; fixtures take its verdict, and the close suite
                   judges the kind of end that it finds against what the case allows
``case_result``    ``CaseResult``: one result as a line of JSON, schema ``roket.close/1``
``speed_result``   ``SpeedResult``: how fast a program was, as a line of JSON, schema ``roket.speed/1``
``wrapping``       text in lines that fit a terminal
=================  ====================================================================================================
"""
