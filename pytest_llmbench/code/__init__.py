"""Which code it is: the files of the libraries, the commit of a repository, the run of a CI service."""
