"""Tables, records and plots of what was measured."""
