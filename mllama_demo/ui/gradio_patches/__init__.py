"""Work-arounds for Gradio, one file each.

The head of each file says `Gradio:` the versions in which the defect was seen, `Defect:` what Gradio does wrong, `Report:` the
upstream report, and `Test:` a test that fails when the patch is removed. Once that test passes without it, the file can go.
"""
