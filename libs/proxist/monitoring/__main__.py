from proxist.monitoring.generate import main

main()
