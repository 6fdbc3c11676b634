"""What people read: run summaries, comparisons, the HTML report and the explanation page."""
