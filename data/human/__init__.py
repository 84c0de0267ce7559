"""Human evaluation: blinded pairs of answers as one page, read back into `ratings`, win rates and agreement as views."""
