"""One self-contained HTML page on what runs learned: `page.write_report`."""
