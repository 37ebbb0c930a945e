"""Pictures of boxes and arrows: SVG, PNG, Mermaid and text, without Graphviz.

It knows nothing of pipelines: whoever wants a picture says which boxes there are, what is written into them, and which
follows which. The same boxes and arrows give the same bytes.

============  ========================================================================================================
`boxes`       what a picture is made of: `Box` and `Drawing`
`graph`       the arrows, in an order in which they all go forward
`words`       titles and notes as they can stand in a picture
`layout`      where everything is, in points; `svg` and `png` write that
`colours`     for a light and for a dark ground
`mermaid`     the text of a flowchart, which others lay out
`text`        a line for each box, with a layout of its own
============  ========================================================================================================
"""
