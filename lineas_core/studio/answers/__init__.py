"""Pictures, texts and their readouts, made once for tabs, API and Compare."""
