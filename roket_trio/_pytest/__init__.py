"""What the pytest plugin does once a test or an option asks for it; ``roket_trio.pytest_plugin`` loads it then.

==============  =======================================================================================================
``hooks``       ``SuiteHooks``: judges each test, and reports at the end of the run
``leak_check``  ``LeakCheck``: which sockets the tests leave open, and which of these a fixture of wider scope holds
``settings``    ``Settings``: options and lines of the configuration; what the markers of a test ask for
==============  =======================================================================================================
"""
