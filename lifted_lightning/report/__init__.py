"""`lifted report`: from run folders to tables with intervals, figures, and one page."""
