"""The report: what runs learned, in one self-contained HTML page. Begin with `writer.write_report`."""
