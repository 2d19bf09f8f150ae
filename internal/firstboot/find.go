package firstboot

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Find looks for the program for one of Go's architectures: in the folder
// ASCEND_FIRSTBOOT, beside this program, in ../libexec/ascend, in PATH.
func Find(arch string) (string, error) {
	name := "ascend-firstboot-" + arch + ".exe"
	var dirs []string
	if d := os.Getenv("ASCEND_FIRSTBOOT"); d != "" {
		dirs = []string{d}
	} else if self, err := os.Executable(); err == nil {
		d := filepath.Dir(self)
		dirs = []string{d, filepath.Join(d, "../libexec/ascend")}
	}
	for _, d := range dirs {
		f := filepath.Join(d, name)
		if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
			return f, nil
		}
	}
	if f, err := exec.LookPath(name); err == nil {
		return f, nil
	}
	return "", fmt.Errorf("cannot find %s beside this program or in PATH (set ASCEND_FIRSTBOOT to its folder)", name)
}
