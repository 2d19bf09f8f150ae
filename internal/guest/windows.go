package guest

// windows reads a Windows system on an NTFS volume, if one is.
func (in *inspector) windows(*Volume) {}
