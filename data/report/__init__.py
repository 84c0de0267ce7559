"""One self-contained HTML file about a lake (`python -m data report`).

source      what the sections ask: the lake, runs, the pool that is judged
parts       what a section is made of: sentences, figures, tables, drawings, samples, code
chart       inline SVG: curves, histograms, intervals, a graph
tokens      what is known of a sample's tokens; colours: the classes that show it
page        the sections in their order, put into page.html with page.css and page.js

A section is one function of a Source that gives a Section, or the one sentence why there is none; its file and its line in page.py
are all it needs: paid, pool, samples, training, evaluation, ablations, lineage."""
