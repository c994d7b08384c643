"""The paper's figures and tables, a program each; `all` draws them with an index page."""
