"""Other people's test suites, as they are and with this package's names in the place of AnyIO's, Trio's or httpcore's.

======================  ===============================================================================================
``suites``              which ones: pinned versions, and every difference that is known, with its reason
``put_names``           the pytest plugin that puts our names into the other libraries' modules
``comparing``           runs a suite twice, and compares test by test
``watched``             runs the suites with and without the census of sockets, which must change nothing
``record_run``          the pytest plugin that writes down what a run has shown
``programs``            for libraries whose tests are not in their source distributions: programs that use them for real
======================  ===============================================================================================

``python -m tests.strangers DIRECTORY [NAME...]`` runs them, in the environment of that Python, and
``python -m tests.strangers.watched DIRECTORY [NAME...]`` runs them with and without a census.
"""
