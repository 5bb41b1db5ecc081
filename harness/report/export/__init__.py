"""`harness export`: a run record in the forms that kernel CI systems take."""
