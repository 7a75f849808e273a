"""The close suite: scenarios that any program can be tested with, and what it must do in each.

====================  =================================================================================================
``case``              ``Case``: what one scenario says
``cases``             ``CASES``: the scenarios, with addresses, levels and reasons
``peer_scripts``      what the peers do in them
``jobs``              the environment contract: what a program is asked to do in a case
``programs``          ``Target``: a program under test; how it is started, fed and ended
``running_programs``  those that run now, so that all can be ended
``runner``            ``run_case``: one program, one case, one ``CaseResult``
``case_run``          the steps of that
``context``           what the scripts of a case may do besides using their connections
``judging``           what was observed in a case, and the verdicts on it
====================  =================================================================================================
"""
