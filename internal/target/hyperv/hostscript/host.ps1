# What Ascend runs on a Hyper-V host, all of it. The text is constant: it is the
# same, byte for byte, for every machine and every host. What is to be done comes
# as one JSON document and is only ever used as values of parameters, never as
# text of a command. The answer is one JSON document, as Base64, on standard output.
#
# Windows PowerShell 5.1 (Windows Server 2016 and later) with the module Hyper-V.
param([string]$Document)

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'
$WarningPreference = 'SilentlyContinue'
$ConfirmPreference = 'None'

# A machine bears its job's mark as a line of its notes.
function Get-MachineJob($machine) {
    $found = [regex]::Match([string]$machine.Notes, '(?m)^ascend\.job=(\S+)\s*$')
    if ($found.Success) { return $found.Groups[1].Value }
    return ''
}

function Get-MachineById([string]$id) {
    return Get-VM | Where-Object { [string]$_.Id -eq $id } | Select-Object -First 1
}

function Get-RequiredMachine($in) {
    $machine = Get-MachineById $in.id
    if ($null -eq $machine) { throw "GONE: the machine $($in.id) is not on this host any more" }
    return $machine
}

# The failover cluster that this host is a node of. The cmdlets are also there, and
# fail, where only the tools are installed.
function Get-ClusterName {
    if (-not (Get-Command -Name Get-Cluster -ErrorAction SilentlyContinue)) { return '' }
    try { return [string](Get-Cluster).Name } catch { return '' }
}

# The cluster's role of a machine; nothing where it has none.
function Get-MachineRole([string]$id) {
    try { return Get-ClusterGroup -VMId $id } catch { return $null }
}

# What there is: the host, its switches, shares, volumes and machines.
function Get-Everything {
    $vmHost = Get-VMHost
    $system = Get-CimInstance -ClassName Win32_OperatingSystem
    return @{
        name       = [string]$vmHost.Name
        system     = [string]$system.Caption
        build      = [string]$system.Version
        processors = [long]$vmHost.LogicalProcessorCount
        memory     = [long]$vmHost.MemoryCapacity
        free       = [long]$system.FreePhysicalMemory * 1024
        path       = [string]$vmHost.VirtualHardDiskPath
        cluster    = Get-ClusterName
        switches   = @(Get-VMSwitch | ForEach-Object { @{ name = [string]$_.Name; kind = [string]$_.SwitchType } })
        shares     = @(Get-SmbShare | Where-Object { $_.Path -and [string]$_.ShareType -eq 'FileSystemDirectory' } |
            ForEach-Object { @{ name = [string]$_.Name; path = [string]$_.Path; special = [bool]$_.Special } })
        volumes    = @(Get-CimInstance -ClassName Win32_Volume | Where-Object { $_.Capacity -and $_.Name } |
            ForEach-Object { @{ path = [string]$_.Name; free = [long]$_.FreeSpace; size = [long]$_.Capacity; system = [string]$_.FileSystem } })
        machines   = @(Get-VM | ForEach-Object { @{ id = [string]$_.Id; name = [string]$_.Name; job = Get-MachineJob $_; state = [string]$_.State } })
    }
}

# The folder of a machine's disks. Hyper-V does not start from disks that NTFS compresses or encrypts.
function New-Folder($in) {
    if (-not (Test-Path -LiteralPath $in.folder -PathType Container)) {
        [void](New-Item -ItemType Directory -Path $in.folder)
    }
    $has = (Get-Item -LiteralPath $in.folder -Force).Attributes
    return @{
        compressed = [bool]($has -band [IO.FileAttributes]::Compressed)
        encrypted  = [bool]($has -band [IO.FileAttributes]::Encrypted)
    }
}

# A disk's file, as Hyper-V reads it.
function Get-DiskFile($in) {
    if (-not (Test-Path -LiteralPath $in.file -PathType Leaf)) { return @{ found = $false } }
    $length = [long](Get-Item -LiteralPath $in.file -Force).Length
    if (-not $in.read) { return @{ found = $true; length = $length } }
    $vhd = Get-VHD -Path $in.file
    $sum = ''
    if ($in.digest) { $sum = [string](Get-FileHash -LiteralPath $in.file -Algorithm SHA256).Hash }
    return @{
        found = $true; length = $length; size = [long]$vhd.Size; format = [string]$vhd.VhdFormat; kind = [string]$vhd.VhdType; sha256 = $sum
    }
}

# Makes a machine, powered off. It has the temporary name until all of it is
# made: one that is found under that name is what a broken attempt left.
function New-Machine($in) {
    foreach ($half in @(Get-VM | Where-Object { [string]$_.Name -ceq $in.temporary })) { Remove-WholeMachine $half $in.folder }
    $machine = Get-VM | Where-Object { (Get-MachineJob $_) -ceq $in.job } | Select-Object -First 1
    if ($null -eq $machine) {
        $machine = New-VM -Name $in.temporary -Path $in.path -Generation $in.generation -MemoryStartupBytes ([long]$in.memory.startup) -NoVHD
        try {
            Set-Hardware $machine $in
            Add-Disks $machine $in
            Add-Adapters $machine $in
            Set-Boot $machine $in
            Set-VM -VM $machine -Notes $in.notes
            Rename-VM -VM $machine -NewName $in.name
        } catch {
            $failure = $_
            # What cannot be removed now is by the next attempt, or by undo.
            try { Remove-WholeMachine $machine $in.folder } catch { Write-Verbose -Message ([string]$_) }
            throw $failure
        }
    }
    $id = [string]$machine.Id
    if ($in.cluster -and $null -eq (Get-MachineRole $id)) {
        [void](Add-ClusterVirtualMachineRole -VMId $id)
    }
    return @{ id = $id; name = [string](Get-MachineById $id).Name }
}

function Set-Hardware($machine, $in) {
    Set-VMProcessor -VM $machine -Count ([long]$in.processors)
    if ($in.memory.dynamic) {
        Set-VMMemory -VM $machine -DynamicMemoryEnabled $true -MinimumBytes ([long]$in.memory.minimum) -StartupBytes ([long]$in.memory.startup) -MaximumBytes ([long]$in.memory.maximum)
    } else {
        Set-VMMemory -VM $machine -DynamicMemoryEnabled $false -StartupBytes ([long]$in.memory.startup)
    }
    Set-VM -VM $machine -CheckpointType $in.checkpoints
    # Windows Server 2019 and later make one by themselves at every start.
    if ((Get-Command -Name Set-VM).Parameters.ContainsKey('AutomaticCheckpointsEnabled')) {
        Set-VM -VM $machine -AutomaticCheckpointsEnabled $false
    }
    if ($in.tpm) {
        Set-VMKeyProtector -VM $machine -NewLocalKeyProtector
        Enable-VMTPM -VM $machine
    }
}

function Add-Disks($machine, $in) {
    # Generation 1 comes with a DVD drive where a disk may have to be.
    Get-VMDvdDrive -VM $machine | Remove-VMDvdDrive
    foreach ($disk in $in.disks) {
        if ($disk.controller -eq 'SCSI') {
            while (@(Get-VMScsiController -VM $machine).Count -le [int]$disk.number) { Add-VMScsiController -VM $machine }
        }
        Add-VMHardDiskDrive -VM $machine -ControllerType $disk.controller -ControllerNumber ([int]$disk.number) -ControllerLocation ([int]$disk.location) -Path $disk.file
    }
}

function Add-Adapters($machine, $in) {
    Get-VMNetworkAdapter -VM $machine | Remove-VMNetworkAdapter
    foreach ($nic in $in.nics) {
        $adapter = Add-VMNetworkAdapter -VM $machine -Name $nic.name -Passthru
        if ($nic.mac) { Set-VMNetworkAdapter -VMNetworkAdapter $adapter -StaticMacAddress $nic.mac }
        if ($nic.vlan) { Set-VMNetworkAdapterVlan -VMNetworkAdapter $adapter -Access -VlanId ([int]$nic.vlan) }
        if ($nic.switch) {
            # By object: a name would be read as a pattern.
            $switch = Get-VMSwitch | Where-Object { [string]$_.Name -ceq $nic.switch } | Select-Object -First 1
            if ($null -eq $switch) { throw "SWITCH: the virtual switch '$($nic.switch)' is not on this host any more" }
            Connect-VMNetworkAdapter -VMNetworkAdapter $adapter -VMSwitch $switch
        }
    }
}

function Set-Boot($machine, $in) {
    if ([int]$in.generation -eq 1) {
        Set-VMBios -VM $machine -StartupOrder @('IDE', 'CD', 'LegacyNetworkAdapter', 'Floppy')
        return
    }
    $boot = $in.disks[[int]$in.boot]
    $drive = Get-VMHardDiskDrive -VM $machine -ControllerType SCSI -ControllerNumber ([int]$boot.number) -ControllerLocation ([int]$boot.location)
    if ($in.secure) {
        Set-VMFirmware -VM $machine -EnableSecureBoot On -SecureBootTemplate $in.template -FirstBootDevice $drive
    } else {
        Set-VMFirmware -VM $machine -EnableSecureBoot Off -FirstBootDevice $drive
    }
}

function Start-Machine($in) {
    $machine = Get-RequiredMachine $in
    if ([string]$machine.State -ne 'Running') { Start-VM -VM $machine }
    return Get-State $in
}

function Get-State($in) {
    $machine = Get-RequiredMachine $in
    return @{ state = [string]$machine.State; heartbeat = [string]$machine.Heartbeat }
}

# Removes the job's machine. One without the job's mark is not touched.
function Remove-Machine($in) {
    $removed = 0
    foreach ($machine in @(Get-VM)) {
        $half = [string]$machine.Name -ceq $in.temporary
        $named = $in.id -and [string]$machine.Id -eq $in.id
        $marked = (Get-MachineJob $machine) -ceq $in.job
        if ($named -and -not $half -and -not $marked) { throw "MARK: the notes of the machine no longer have the line ascend.job=$($in.job)" }
        if ($half -or $marked) {
            Remove-WholeMachine $machine $in.folder
            $removed++
        }
    }
    return @{ removed = $removed }
}

function Remove-WholeMachine($machine, $folder) {
    $id = [string]$machine.Id
    # Checkpoints' disks lie beside the disks; Remove-VM leaves those that are attached.
    $made = @(Get-VMHardDiskDrive -VM $machine | ForEach-Object { [string]$_.Path } | Where-Object {
        $_ -like '*.avhd*' -and [IO.Path]::GetFullPath($_).StartsWith($folder + '\', [StringComparison]::OrdinalIgnoreCase) })
    if ((Get-ClusterName) -ne '') {
        $role = Get-MachineRole $id
        if ($null -ne $role) { $role | Remove-ClusterGroup -RemoveResources -Force }
    }
    if ([string]$machine.State -eq 'Saved') {
        Remove-VMSavedState -VM $machine
    } elseif ([string]$machine.State -ne 'Off') {
        Stop-VM -VM $machine -TurnOff -Force
    }
    Remove-VM -VM $machine -Force
    foreach ($file in $made) {
        if (Test-Path -LiteralPath $file -PathType Leaf) { Remove-Item -LiteralPath $file -Force }
    }
}

# Deletes files, and folders that hold nothing else than empty folders.
function Remove-Files($in) {
    foreach ($file in $in.files) {
        if (Test-Path -LiteralPath $file -PathType Leaf) { Remove-Item -LiteralPath $file -Force }
    }
    foreach ($folder in $in.folders) {
        if (-not (Test-Path -LiteralPath $folder -PathType Container)) { continue }
        if (Get-ChildItem -LiteralPath $folder -Recurse -Force | Where-Object { -not $_.PSIsContainer }) { continue }
        Remove-Item -LiteralPath $folder -Recurse -Force
    }
    return @{}
}

# Fetches a disk's file, from where it stops, over HTTPS from the one address that
# shows the certificate whose SHA-256 is given.
function Receive-Disk($in) {
    Add-Type -Language CSharp -TypeDefinition @'
using System;
using System.IO;
using System.Net;
using System.Security.Cryptography;
public static class AscendPull {
    public static long Run(string url, string token, string pin, string file, long offset) {
        ServicePointManager.SecurityProtocol |= SecurityProtocolType.Tls12;
        var request = (HttpWebRequest)WebRequest.Create(url);
        request.Proxy = null;
        request.AllowAutoRedirect = false;
        request.Headers["Authorization"] = "Bearer " + token;
        request.AddRange(offset);
        request.ServerCertificateValidationCallback = (sender, certificate, chain, errors) => {
            using (var hash = SHA256.Create())
                return BitConverter.ToString(hash.ComputeHash(certificate.GetRawCertData())).Replace("-", "").ToLowerInvariant() == pin;
        };
        using (var response = (HttpWebResponse)request.GetResponse())
        using (var source = response.GetResponseStream())
        using (var sink = new FileStream(file, FileMode.OpenOrCreate, FileAccess.Write, FileShare.Read)) {
            if (response.StatusCode != HttpStatusCode.PartialContent) throw new IOException("the answer is " + response.StatusCode + " and not PartialContent");
            sink.Seek(offset, SeekOrigin.Begin);
            source.CopyTo(sink, 1 << 20);
            sink.Flush(true);
            return sink.Length;
        }
    }
}
'@
    return @{ length = [AscendPull]::Run($in.url, $in.token, $in.pin, $in.file, [long]$in.offset) }
}

$answer = $null
try {
    $in = ConvertFrom-Json -InputObject $Document
    $result = switch ($in.op) {
        'look' { Get-Everything }
        'folder' { New-Folder $in }
        'disk' { Get-DiskFile $in }
        'create' { New-Machine $in }
        'start' { Start-Machine $in }
        'state' { Get-State $in }
        'remove' { Remove-Machine $in }
        'delete' { Remove-Files $in }
        'pull' { Receive-Disk $in }
        default { throw "this script knows no operation '$($in.op)'" }
    }
    $answer = @{ result = $result }
} catch {
    $answer = @{ error = @{
            message = [string]$_.Exception.Message; id = [string]$_.FullyQualifiedErrorId; category = [string]$_.CategoryInfo.Category; command = [string]$_.InvocationInfo.MyCommand
        } }
}
$json = ConvertTo-Json -InputObject $answer -Depth 8 -Compress
[Console]::Out.Write([Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json)))
