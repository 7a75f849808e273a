"""Results as people and CI servers read them.

===============  ======================================================================================================
``table``        a table for a terminal, and the numbers of it
``html``         a page that needs nothing else; ``report.html`` is its template
``junit``        JUnit XML
``speed_table``    how fast programs are, as a table; ``speed_html`` as a page, ``speed_formats`` for Bencher and others
``from_pytest``  the results of the pytest plugin as lines of JSON
===============  ======================================================================================================
"""
