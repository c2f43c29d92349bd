"""`nightschool demo`: the whole machine on real text, with nothing downloaded."""
