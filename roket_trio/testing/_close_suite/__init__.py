"""The close suite: scenarios that any program can be tested with, and what it must do in each.

====================  =================================================================================================
``case``              ``Case``: what one scenario says
``cases``             ``CASES``: the scenarios, with addresses, levels, reasons and the scripts of the peers
``jobs``              the environment contract: what a program is asked to do in a case
``programs``          ``Target``: a program under test; how it is started, fed and ended
``running_programs``  those that run now, so that all can be ended
``runner``            ``run_case``: one program, one case, one ``CaseResult``
``case_run``          the steps of that
``context``           what the scripts of a case may do besides using their connections
``files``             what files the program finds: a certificate, a directory to serve
``http_options``      what an HTTP program is asked for
``judging``           what was observed in a case, and the verdicts on it
====================  =================================================================================================
"""
