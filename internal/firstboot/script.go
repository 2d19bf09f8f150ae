package firstboot

import (
	"fmt"
	"path"
	"strings"
)

// DiskFile is the script of diskpart beside Script.
const DiskFile = "disks.txt"

// CommandLine starts Script aside from whoever runs it: winlogon runs it once
// before the first logon (SYSTEM\Setup, SetupType 2) and would wait for its end.
const CommandLine = `cmd.exe /d /c start "" /min cmd.exe /d /c %SystemRoot%\` + Folder + `\` + ScriptFile

// Script is the command file for Windows before 10, and the script of diskpart
// that it needs. Interfaces are named by wmic, which those versions have.
func (c *Config) Script() (script, disks string) {
	var b strings.Builder
	line := func(f string, a ...any) { fmt.Fprintf(&b, f+"\r\n", a...) }
	line("@echo off")
	line("setlocal")
	line(`set DIR=%%SystemRoot%%\%s`, Folder)
	line(`set LOG=%%DIR%%\%s`, LogFile)
	line(`reg add HKLM\SYSTEM\Setup /v SetupType /t REG_DWORD /d 0 /f >nul`)
	line(`reg add HKLM\SYSTEM\Setup /v CmdLine /t REG_SZ /d "" /f >nul`)
	line(`echo %%DATE%% %%TIME%% first start >>"%%LOG%%"`)
	for _, d := range c.Drivers {
		line(`echo driver %s >>"%%LOG%%"`, path.Base(d))
		line(`%%SystemRoot%%\System32\pnputil.exe -i -a "%%DIR%%\%s" >>"%%LOG%%" 2>&1`, strings.ReplaceAll(d, "/", `\`))
	}
	for i, a := range c.Adapters {
		where := "PhysicalAdapter=TRUE and NetConnectionID is not NULL"
		if a.MAC != "" {
			where = "MACAddress='" + strings.ToUpper(a.MAC) + "' and NetConnectionID is not NULL"
		}
		line(`set TRIES=0`)
		line(`:nic%d`, i)
		line(`set NIC=`)
		// wmic ends its lines in two carriage returns: the inner loop drops one.
		line(`for /f "tokens=2 delims==" %%%%a in ('wmic nic where "%s" get NetConnectionID /value 2^>nul') do for /f "delims=" %%%%b in ("%%%%a") do set NIC=%%%%b`, where)
		line(`if defined NIC goto found%d`, i)
		line(`set /a TRIES+=1`)
		line(`if %%TRIES%% geq 60 goto lost%d`, i)
		line(`ping -n 6 127.0.0.1 >nul`)
		line(`goto nic%d`, i)
		line(`:lost%d`, i)
		line(`echo adapter %s was not found >>"%%LOG%%"`, a.MAC)
		line(`goto next%d`, i)
		line(`:found%d`, i)
		for _, cmd := range a.addressing(`"%NIC%"`) {
			line(`%s >>"%%LOG%%" 2>&1`, strings.Join(cmd, " "))
		}
		line(`:next%d`, i)
	}
	if c.Disks > 1 {
		line(`diskpart /s "%%DIR%%\%s" >>"%%LOG%%" 2>&1`, DiskFile)
		line(`del "%%DIR%%\%s"`, DiskFile)
		disks = diskScript(c.Disks)
	}
	line(`rd /s /q "%%DIR%%\%s" 2>nul`, Drivers)
	line(`echo %%DATE%% %%TIME%% done >>"%%LOG%%"`)
	line(`(echo ASCEND-FIRSTBOOT done >\\.\COM1) 2>nul`)
	line(`del "%%~f0"`)
	return b.String(), disks
}
