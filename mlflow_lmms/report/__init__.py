"""Results as documents: tables, CSV, Markdown, LaTeX, model cards and one HTML file. Pure: values in, text out."""
