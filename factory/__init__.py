"""Makes tables: stages (one a file) drive engines and reward components, and publish what they give in the lake."""
