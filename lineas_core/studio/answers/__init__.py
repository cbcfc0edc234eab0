"""Images, texts and their readouts, shared by the tabs, the API and Compare."""
