"""Course assignments: what is asked, how an answer is judged, and `lpnorm grade`."""
