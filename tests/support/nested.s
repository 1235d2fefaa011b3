# A kernel that prints a line on the first serial port and ends its virtual machine. If HANG is
# defined, it halts at once. Its entry point follows Xen's "x86/HVM direct boot ABI" (PVH).
	.section .note.Xen, "a", @note
	.long 4, 4, 18
	.asciz "Xen"
	.long _start
	.text
	.code32
	.globl _start
_start:
	.ifndef HANG
	mov $message, %esi
	mov $0x3f8, %dx
1:	lodsb
	test %al, %al
	jz 2f
	out %al, %dx
	jmp 1b
	# Any write to QEMU's isa-debug-exit device ends the virtual machine.
2:	mov $0xf4, %dx
	xor %eax, %eax
	out %al, %dx
	.endif
3:	hlt
	jmp 3b
message:
	.asciz "hello from inside\n"
	.asciz "Linux version 1.0-tiny (nobody)"
